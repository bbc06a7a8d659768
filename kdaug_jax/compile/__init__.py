"""`--mode=compile`: compiles a config's steps for devices that are not there, and sizes the job."""
