"""DMControl: SAC with an auxiliary loss."""


def load_agent(run, device="cpu", agent_steps=None):
    """The trained agent of a run folder, see dmcontrol.agent.load_agent."""
    from dmcontrol.agent import load_agent as load

    return load(run, device, agent_steps)
