"""Any runs compared: statistics, tables, a page. Knows nothing of studies."""
