"""The peers of a gateway as real servers: the AI service, a PACS, a RIS."""
