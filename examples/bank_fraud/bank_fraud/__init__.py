"""Which payment is fraud? An ordinary Flower app on the SYNTHETIC transactions of five invented banks."""
