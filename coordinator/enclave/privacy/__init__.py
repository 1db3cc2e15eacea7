"""What privacy costs and who pays: accountant, budget, the noisy mean. No I/O; for the aggregator and for estimates."""
