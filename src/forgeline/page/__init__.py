"""Pages of sections and charts, as one HTML file that needs nothing else or as Markdown; they know no content."""
