"""Pages, tables and figures that a person looks at."""
