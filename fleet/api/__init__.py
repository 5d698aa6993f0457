"""The HTTP API: jobs for services in any language. Routes translate; what they ask is `fleet.client` and `fleet.control`."""
