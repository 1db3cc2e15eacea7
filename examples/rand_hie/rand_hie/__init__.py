"""Who sees a doctor five times a year? An ordinary Flower app on the RAND Health Insurance Experiment."""
