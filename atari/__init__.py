"""Rainbow with a self-supervised auxiliary on Atari-100k."""


def load_agent(run, device="cpu", agent_steps=None):
    """The trained agent of the run folder `run`; see `atari.agent.load_agent`."""
    from atari.agent import load_agent as load  # torch is imported only when an agent is wanted

    return load(run, device, agent_steps)
