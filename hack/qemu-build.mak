# The devices of hack/qemu-build: those of runtime/src/vmm/qemu/command_line.rs, and disks.
CONFIG_MICROVM=y
CONFIG_VIRTIO_MMIO=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VHOST_USER_FS=y
CONFIG_VIRTIO_NET=y
CONFIG_SCSI=y
CONFIG_VIRTIO_SCSI=y
CONFIG_VIRTIO_BALLOON=y
