"""From files in many formats and shapes to rows in the form of records."""
