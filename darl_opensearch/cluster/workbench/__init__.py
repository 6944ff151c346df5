"""The Search Relevance Workbench (plugin ``search-relevance``): writing what it compares, reading its judgments."""
