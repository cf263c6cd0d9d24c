"""The one flag parser of all programs: tables, parsing, help."""
