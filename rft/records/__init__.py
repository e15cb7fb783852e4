"""The files that rft writes for others to read, as pydantic models: one module per kind of file."""
