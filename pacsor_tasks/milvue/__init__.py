"""The Milvue API v3: `client.MilvueClient` is the door, everything else here is behind it."""
