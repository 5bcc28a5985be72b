"""A study: from its file to its runs, planned on equal terms, executed and resumed."""
