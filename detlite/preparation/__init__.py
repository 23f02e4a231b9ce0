"""From a folder of your images to a config that trains."""
