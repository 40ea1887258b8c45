"""What turns layers into factors: which, how their outputs weigh, the graph with both."""
