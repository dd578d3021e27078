"""The Milvue API v3."""
