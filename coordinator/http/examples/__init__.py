"""Examples of requests and answers, as /openapi.json shows them. A test holds each to its model."""
