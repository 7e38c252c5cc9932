#include "stream/gate.h"

#include <string.h>

#include "stream/ring.h"

/* Below threshold − BAND a frame is silence: Silero's own recommendation. */
#define BAND 0.15f

/* Clatter and music hover about the threshold for a few frames; a voice soon leaves no doubt. On 35 minutes of speech
 * the rule costs none of 265 utterances, and it keeps the gate shut on recordings of dishes and on-hold music. */
#define SURE    0.2f
#define SURE_MS 500

/* A high threshold must not ask for what no frame can reach. */
static float sure_level(float threshold)
{
    float half = (1.0f - threshold) / 2.0f;
    return threshold + (half < SURE ? half : SURE);
}

static int64_t samples(int ms)
{
    return (int64_t)ms * (SAMPLE_RATE / 1000);
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void gate_init(struct gate *gate, const struct gate_options *options, int64_t position)
{
    memset(gate, 0, sizeof(*gate));
    gate->options = *options;
    vad_init(&gate->vad);
    gate->position = position;
    gate->speech_since = gate->speech_last = gate->last_end = position;
}

static void open_at(struct gate *gate, int64_t at, struct gate_event *event)
{
    gate->open = true;
    event->type = GATE_START;
    event->at = max64(at, gate->last_end);
}

static void close_at(struct gate *gate, int64_t at, struct gate_event *event)
{
    gate->open = false;
    gate->last_end = at;
    event->type = GATE_END;
    event->at = at;
}

void gate_judge(struct gate *gate, float probability, int64_t start, struct gate_event *event)
{
    const struct gate_options *o = &gate->options;
    int64_t end = start + VAD_FRAME;
    bool speech = probability >= o->threshold || (gate->speaking && probability >= o->threshold - BAND);
    event->type = GATE_NONE;
    event->at = 0;
    if (speech && !gate->speaking) {
        gate->speech_since = start;
        gate->peak = probability;
    }
    if (speech) {
        gate->speech_last = end;
        gate->peak = probability > gate->peak ? probability : gate->peak;
    }
    gate->speaking = speech;

    int64_t burst = end - gate->speech_since;
    bool sure = gate->peak >= sure_level(o->threshold) || burst >= samples(SURE_MS);
    if (!gate->open && speech && sure && burst >= samples(o->min_speech_ms))
        open_at(gate, gate->speech_since - samples(o->pre_roll_ms), event);
    else if (gate->open && !speech && end - gate->speech_last >= samples(o->min_silence_ms))
        close_at(gate, min64(gate->speech_last + samples(o->pad_ms), end), event);
}

int gate_process(struct gate *gate, const float *pcm, int n, struct gate_event *event)
{
    event->type = GATE_NONE;
    event->at = 0;
    if (!gate->options.enabled) {
        if (!gate->open) {
            open_at(gate, gate->position, event);
            n = 1;
        }
        gate->position += n;
        return n;
    }
    int used = 0;
    while (used < n && event->type == GATE_NONE) {
        int take = (int)min64(VAD_FRAME - gate->n_frame, n - used);
        memcpy(gate->frame + gate->n_frame, pcm + used, (size_t)take * sizeof(*pcm));
        gate->n_frame += take;
        gate->position += take;
        used += take;
        if (gate->n_frame < VAD_FRAME)
            break;
        gate->n_frame = 0;
        gate_judge(gate, vad_process(&gate->vad, gate->frame), gate->position - VAD_FRAME, event);
    }
    return used;
}

void gate_finish(struct gate *gate, struct gate_event *event)
{
    event->type = GATE_NONE;
    event->at = 0;
    if (gate->n_frame > 0) {
        memset(gate->frame + gate->n_frame, 0, (size_t)(VAD_FRAME - gate->n_frame) * sizeof(*gate->frame));
        int64_t start = gate->position - gate->n_frame;
        gate->n_frame = 0;
        gate_judge(gate, vad_process(&gate->vad, gate->frame), start, event);
        event->at = min64(event->at, gate->position);
    }
    if (event->type == GATE_NONE && gate->open) {
        int64_t end = gate->options.enabled && !gate->speaking
                          ? gate->speech_last + samples(gate->options.pad_ms)
                          : gate->position;
        close_at(gate, min64(end, gate->position), event);
    }
}
