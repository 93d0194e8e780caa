"""The data: spoken user turns, made by the repository itself."""
