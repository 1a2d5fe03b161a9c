"""One team's stream: where it stands and what it keeps."""
