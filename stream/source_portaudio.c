#include <errno.h>

#include "stream/source_kinds.h"

int source_portaudio_open(const char *name, bool monitor, struct source **out, struct err *err)
{
    return err_set(err, -ENODEV, "capture from a device is not built yet");
}

int source_list_devices(struct source_device *devices, int max, struct err *err)
{
    return err_set(err, -ENODEV, "capture from a device is not built yet");
}
