"""The only room that names MLflow: runs, registered versions, aliases, gates, promotion."""
