"""Should I reuse this checkpoint? The one room that holds a model's costs against a law's answers."""
