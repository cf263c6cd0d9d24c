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
      --cpuset-cpus string               CPUs it may run on (0-3, 0,1)
      --cpuset-mems string               Memory nodes it may use (0-3, 0,1)
      --device list                      Give it a device of the machine, or a CDI device
                                         (PATH[:PATH[:rwm]] or VENDOR/CLASS=NAME)
      --device-cgroup-rule list          Add a rule to its device control group
      --device-read-bps list             Bound reading from a device (PATH:BYTES each second)
      --device-read-iops list            Bound reading from a device (PATH:COUNT each second)
      --device-write-bps list            Bound writing to a device (PATH:BYTES each second)
      --device-write-iops list           Bound writing to a device (PATH:COUNT each second)
      --disable-content-trust            Accepted and ignored (default true)
      --dns list                         Name servers to use
      --dns-opt list                     hidden:alias dns-option
      --dns-option list                  Options of the resolver
      --dns-search list                  Domains to search names in
      --domainname string                NIS domain name
      --entrypoint string                Command to run in place of the image's ENTRYPOINT
  -e, --env list                         Set a variable, or pass one on by its name
      --env-file list                    Read variables from a file
      --expose list                      Note a port, or a range, that it listens on
      --gpus gpu-request                 GPUs to give to it ('all' for all of them)
      --group-add list                   Further groups of its user
      --health-cmd string                Command that checks whether it is healthy
      --health-interval duration         Time between two checks (ms|s|m|h)
      --health-retries int               Failures in a row that mean unhealthy
      --health-start-interval duration   Time between two checks while it starts (ms|s|m|h)
      --health-start-period duration     Time in which failures do not count (ms|s|m|h)
      --health-timeout duration          Longest time for one check (ms|s|m|h)
      --help                             Print this text
  -h, --hostname string                  Host name
      --init                             Run an init as its first process, which forwards
                                         signals and reaps processes
  -i, --interactive                      Keep its STDIN open, attached or not
      --io-maxbandwidth bytes            Accepted and ignored (Windows only)
      --io-maxiops uint                  Accepted and ignored (Windows only)
      --ip string                        IPv4 address on the network
      --ip6 string                       IPv6 address on the network
      --ipc string                       IPC namespace: none, private, shareable, host or
                                         container:NAME
      --isolation string                 Accepted and ignored (Windows only)
      --kernel-memory bytes              Limit of kernel memory (the kernel has dropped it)
  -l, --label list                       Give it a label (NAME=VALUE)
      --label-file list                  Read labels from a file
      --link list                        Make another container known by name (NAME[:ALIAS])
      --link-local-ip list               Further link-local addresses
      --log-driver string                Where its output goes
      --log-opt list                     Option of the log driver (NAME=VALUE)
      --mac-address string               MAC address, such as 92:d0:c6:0a:29:33
  -m, --memory bytes                     Limit of memory
      --memory-reservation bytes         Memory it keeps when the machine runs short
      --memory-swap swap                 Limit of memory and swap together; -1 for endless swap
      --memory-swappiness int            How readily its memory is swapped, 0 to 100
      --mount mount                      Mount something (type=bind|volume|tmpfs|image,src=,dst=)
      --name string                      Name of the container
      --net network                      hidden:alias network
      --net-alias list                   hidden:alias network-alias
      --network network                  Network to connect it to
      --network-alias list               Further name on the network
      --no-healthcheck                   Do not run the image's HEALTHCHECK
      --oom-kill-disable                 Do not kill its processes when memory runs out
      --oom-score-adj int                How likely the kernel kills it first, -1000 to 1000
      --pid string                       PID namespace: host or container:NAME
      --pids-limit int                   Limit of processes; -1 for none
      --platform string                  Platform of the image (OS/ARCH[/VARIANT])
      --privileged                       Give it every right on the machine
  -p, --publish list                     Publish a port ([[IP:][HOST_PORT]:]PORT[/PROTOCOL])
  -P, --publish-all                      Publish each exposed port on a random port
      --pull string                      When to pull the image: always, missing or never
                                         (default "missing")
  -q, --quiet                            Print nothing while pulling
      --read-only                        Make its root file system read-only
      --restart string                   When to start it again: no, on-failure[:N], always,
                                         unless-stopped or on-unhealthy (default "no")
      --rm                               Remove it, with its anonymous volumes, when it ends
      --runtime string                   OCI runtime to run it with
      --security-opt list                Option of its confinement, such as seccomp=FILE
      --shm-size bytes                   Size of /dev/shm
      --stop-signal string               Signal that asks it to end
      --stop-timeout int                 Seconds to wait for its end before it is killed
      --storage-opt list                 Option of its storage (NAME=VALUE)
      --sysctl map                       Kernel parameter in its namespaces (NAME=VALUE)
      --tmpfs list                       Mount a tmpfs (PATH[:OPTIONS])
  -t, --tty                              Give it a terminal
      --ulimit ulimit                    Limit of its processes (NAME=SOFT[:HARD])
  -u, --user string                      User, and group, to run as (NAME|UID[:GROUP|GID])
      --use-api-socket                   Give it the engine's socket and the credentials of
                                         registries
      --userns string                    User namespace: host, or
                                         auto[:size=,uidmapping=,gidmapping=]
      --uts string                       UTS namespace: host
  -v, --volume list                      Mount a directory or a volume (SOURCE:PATH[:OPTIONS])
      --volume-driver string             Driver of volumes that are made for it
      --volumes-from list                Mount the volumes of another container (NAME[:ro])
  -w, --workdir string                   Directory to start in
"""

RUN = (
    CREATE
    + """
  -d, --detach                           Print its ID and leave it running
      --detach-keys string               Keys that detach from it (default "ctrl-p,ctrl-q")
      --sig-proxy                        Pass signals on to it (default true)
      --timings                          Print on STDERR where the milliseconds went
"""
)
