"""A web service that counts words."""
