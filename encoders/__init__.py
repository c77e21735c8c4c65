"""Content, neighbours, histories and queries into one vector space."""
