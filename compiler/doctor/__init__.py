"""Why a model is not faster, smaller or right: rules that it breaks, with what each costs here."""
