"""The report as a page: one HTML file that needs nothing else, for people who never read the papers."""
