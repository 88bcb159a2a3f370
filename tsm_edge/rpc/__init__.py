"""Running a compiled model on another machine over TVM's RPC: the device's server, and the session that uses one."""
