"""The flags of create and run."""

CREATE = """
      --add-host list                    Add a line to /etc/hosts (NAME:IP)
      --annotation map                   Add an annotation for the OCI runtime
  -a, --attach list                      Attach to STDIN, STDOUT or STDERR only
      --blkio-weight uint16              Weight of block I/O, 10 to 1000; 0 for none
      --blkio-weight-device list         Weight of block I/O on one device (PATH:WEIGHT)
      --cap-add list                     Add Linux capabilities
      --cap-drop list                    Drop Linux capabilities
      --cgroup-parent string             Parent of the container's control group
      --cgroupns string                  Control group namespace: 'private', or 'host' for the
                                         machine's
      --cidfile string                   Write the container's ID to this new file
      --cpu-count int                    Accepted and ignored (Windows only)
      --cpu-percent int                  Accepted and ignored (Windows only)
      --cpu-period int                   Period of the CPU quota in microseconds
      --cpu-quota int                    CPU time in each period in microseconds
      --cpu-rt-period int                Period of the real-time limit in microseconds
      --cpu-rt-runtime int               Real-time CPU time in each period in microseconds
  -c, --cpu-shares int                   Relative weight of CPU time
      --cpus decimal                     Number of CPUs, such as 1.5
      --cpuset-cpus string               CPUs that the container may use (0-3, 0,1)
      --cpuset-mems string               Memory nodes that the container may use (0-3, 0,1)
      --device list                      Add a device of the machine, or a CDI device
                                         (PATH[:PATH[:rwm]] or VENDOR/CLASS=NAME)
      --device-cgroup-rule list          Add a rule to the device control group
      --device-read-bps list             Limit reading from a device (PATH:BYTES each second)
      --device-read-iops list            Limit reading from a device (PATH:COUNT each second)
      --device-write-bps list            Limit writing to a device (PATH:BYTES each second)
      --device-write-iops list           Limit writing to a device (PATH:COUNT each second)
      --disable-content-trust            Do not ask for signatures (default true)
      --dns list                         Name servers to use
      --dns-opt list                     hidden:alias dns-option
      --dns-option list                  Options of the resolver
      --dns-search list                  Domains to search names in
      --domainname string                NIS domain name
      --entrypoint string                Command to run instead of the image's ENTRYPOINT
  -e, --env list                         Set a variable (NAME=VALUE), or pass on the variable NAME
      --env-file list                    Read variables from a file
      --expose list                      Port, or range, that the container listens on
      --gpus gpu-request                 GPUs to add ('all' for all of them)
      --group-add list                   Additional groups of the user
      --health-cmd string                Command that checks the container's health
      --health-interval duration         Time between two checks (ms|s|m|h)
      --health-retries int               Failures in a row that mean unhealthy
      --health-start-interval duration   Time between two checks during the start period (ms|s|m|h)
      --health-start-period duration     Time in which failures do not count (ms|s|m|h)
      --health-timeout duration          Longest time for one check (ms|s|m|h)
      --help                             Print this text
  -h, --hostname string                  Host name
      --init                             Run an init as the first process, which forwards
                                         signals and reaps processes
  -i, --interactive                      Keep STDIN open, attached or not
      --io-maxbandwidth bytes            Accepted and ignored (Windows only)
      --io-maxiops uint                  Accepted and ignored (Windows only)
      --ip string                        IPv4 address on the network
      --ip6 string                       IPv6 address on the network
      --ipc string                       IPC namespace: none, private, shareable, host or
                                         container:NAME
      --isolation string                 Accepted and ignored (Windows only)
      --kernel-memory bytes              Limit of kernel memory (the kernel has dropped it)
  -l, --label list                       Add a label (NAME=VALUE)
      --label-file list                  Read labels from a file
      --link list                        Link to another container (NAME[:ALIAS])
      --link-local-ip list               Additional link-local addresses
      --log-driver string                Log driver of the container
      --log-opt list                     Option of the log driver (NAME=VALUE)
      --mac-address string               MAC address, such as 92:d0:c6:0a:29:33
  -m, --memory bytes                     Limit of memory
      --memory-reservation bytes         Memory that is protected when the machine runs short
      --memory-swap swap                 Limit of memory and swap together; -1 for unlimited swap
      --memory-swappiness int            How readily memory is swapped, 0 to 100
      --mount mount                      Add a mount (type=bind|volume|tmpfs|image,src=,dst=)
      --name string                      Name of the container
      --net network                      hidden:alias network
      --net-alias list                   hidden:alias network-alias
      --network network                  Network to connect the container to
      --network-alias list               Additional name on the network
      --no-healthcheck                   Do not run the image's HEALTHCHECK
      --oom-kill-disable                 Disable the OOM killer for the container
      --oom-score-adj int                Preference of the OOM killer, -1000 to 1000
      --pid string                       PID namespace: host or container:NAME
      --pids-limit int                   Limit of processes; -1 for none
      --platform string                  Platform of the image (OS/ARCH[/VARIANT])
      --privileged                       Run the container with all privileges
  -p, --publish list                     Publish a port ([[IP:][HOST_PORT]:]PORT[/PROTOCOL])
  -P, --publish-all                      Publish each exposed port on a random port
      --pull string                      When to pull the image: always, missing or never
                                         (default "missing")
  -q, --quiet                            Do not show progress of the pull
      --read-only                        Mount the root file system read-only
      --restart string                   When to restart the container: no, on-failure[:N], always,
                                         unless-stopped or on-unhealthy (default "no")
      --rm                               Remove the container and its anonymous volumes at its end
      --runtime string                   OCI runtime for the container
      --security-opt list                Security option, such as seccomp=FILE
      --shm-size bytes                   Size of /dev/shm
      --stop-signal string               Signal that asks the container to end
      --stop-timeout int                 Seconds to wait before the container is killed
      --storage-opt list                 Option of the storage driver (NAME=VALUE)
      --sysctl map                       Kernel parameter of the container (NAME=VALUE)
      --tmpfs list                       Mount a tmpfs (PATH[:OPTIONS])
  -t, --tty                              Allocate a terminal
      --ulimit ulimit                    Limit of the processes (NAME=SOFT[:HARD])
  -u, --user string                      User and group of the command (NAME|UID[:GROUP|GID])
      --use-api-socket                   Add the engine's socket and the credentials of
                                         registries
      --userns string                    User namespace: host,
                                         auto[:size=,uidmapping=,gidmapping=],
                                         or (without root) keep-id[:uid=,gid=,size=], nomap
      --uts string                       UTS namespace: host
  -v, --volume list                      Mount a directory or a volume (SOURCE:PATH[:OPTIONS])
      --volume-driver string             Driver of volumes that are created
      --volumes-from list                Mount the volumes of another container (NAME[:ro])
  -w, --workdir string                   Working directory of the command
"""

RUN = (
    CREATE
    + """
  -d, --detach                           Print the container's ID and leave it running
      --detach-keys string               Keys that detach (default "ctrl-p,ctrl-q")
      --sig-proxy                        Forward signals to the process (default true)
      --timings                          Print on STDERR where the milliseconds went
"""
)
