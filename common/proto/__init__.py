"""What travels between processes, as protobuf; `make proto` generates the modules beside each .proto file."""
