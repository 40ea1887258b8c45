"""What a run will cost: tables measured on a machine, rooflines where there are none."""
