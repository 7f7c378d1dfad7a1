"""The command line: thin over the engine, the simulator and the embedded servers."""
