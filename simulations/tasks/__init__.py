"""What sites can train: a function, a Flower app as it is. A recipe becomes a task once each site has its rows."""
