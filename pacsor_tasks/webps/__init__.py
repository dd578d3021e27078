"""The subscriber of Azure Web PubSub: other providers' reports become deliveries."""
