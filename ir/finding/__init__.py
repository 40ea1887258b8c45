"""What sites are made of: layers, attention, feed-forward blocks, their names, input masks."""
