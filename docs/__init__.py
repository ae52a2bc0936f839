"""The documents: pages in Markdown, and in ``generate`` what makes those of them that come from the source."""
