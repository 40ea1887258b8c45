"""What proves a pass, ours and users' own: run it over many models and check what it promised."""
