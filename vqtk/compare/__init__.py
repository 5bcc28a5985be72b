"""Runs compared, whoever trained them: statistics, tables, a page. Nothing here plans or trains."""
