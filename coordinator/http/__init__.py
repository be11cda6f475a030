"""The only fastapi: one file per resource. Each route parses, calls a handler, and renders."""
