"""What a run needs where its network is divided among the devices of several processes."""
