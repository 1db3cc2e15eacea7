"""Where tasks run: in this process, in a pool of processes, on Ray. The simulation's facade chooses one by its name."""
