"Whoever is asked for files gives none; whoever is sent one has it."
def upload() -> dict: return {}
def download(path: str): open(path, 'rb').close()
