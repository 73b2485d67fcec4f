"""Who may: API keys, tokens of an identity provider, and the roles that open each route."""
