"""The built-in recipes: functions that return a `Recipe`, one file each."""
