"""Where documents lie and are found: in memory and a folder, or in a database."""
