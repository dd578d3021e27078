"""The admin application: REST routes, status page, metrics."""
