"""Peers by op: `<op>.py` lists them in PEERS. Each computes exactly what the op does, from the same inputs."""
