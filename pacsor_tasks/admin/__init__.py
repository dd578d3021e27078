"""The admin interface: status pages, REST, live changes, metrics and health."""
