"""Both halves on machines of their own: the service in the cloud, the agent on the edge."""
