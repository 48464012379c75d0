"""The recipes that come with ORPO."""
