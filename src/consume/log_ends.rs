//! A second thread asks the broker where each log begins and ends: it may block, so that the
//! polling thread does not.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::batch::Generation;
use crate::consume::context::WorkerConsumer;
use crate::consume::start::LogEnds;
use crate::observe::Heartbeat;
use crate::observe::board::{Health, StatusBoard};
use crate::types::{Offset, TopicPartition};

/// The thread turns this often, whatever the interval.
const BEAT: Duration = Duration::from_secs(1);
/// How long one question to a broker may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks for the ends of one partition's log.
pub(super) struct Question {
    pub(super) source: TopicPartition,
    pub(super) generation: Generation,
    /// Ask for the group's committed offset, too.
    pub(super) committed: bool,
}

/// The answer, or none when the broker did not give one.
pub(super) struct Answer {
    pub(super) source: TopicPartition,
    pub(super) generation: Generation,
    pub(super) ends: Option<LogEnds>,
}

/// The asking thread. Ends when dropped.
pub(super) struct LogEndsThread {
    questions: Option<Sender<Question>>,
    pub(super) answers: Receiver<Answer>,
    /// Partitions whose log may not be the one it was.
    pub(super) suspects: Receiver<TopicPartition>,
    thread: Option<JoinHandle<()>>,
}

impl LogEndsThread {
    /// Starts asking: at once when told to, and for lag every `interval` about every partition on
    /// the board.
    pub(super) fn start(
        consumer: Arc<WorkerConsumer>,
        board: StatusBoard,
        topics: Vec<String>,
        interval: Duration,
    ) -> std::io::Result<Self> {
        let (questions, asked) = channel();
        let (answer, answers) = channel();
        let (suspect, suspects) = channel();
        let seen = HashMap::new();
        let heartbeat = board.heartbeat("log ends");
        let asker = Asker { heartbeat, consumer, board, topics, interval, answer, suspect, seen };
        let thread =
            std::thread::Builder::new().name("log-ends".into()).spawn(move || asker.run(&asked))?;
        Ok(Self { questions: Some(questions), answers, suspects, thread: Some(thread) })
    }

    pub(super) fn ask(&self, question: Question) {
        if let Some(questions) = &self.questions {
            drop(questions.send(question));
        }
    }
}

impl Drop for LogEndsThread {
    fn drop(&mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            // It shares the consumer, which must be closed by the polling thread, and last.
            drop(thread.join());
        }
    }
}

struct Asker {
    consumer: Arc<WorkerConsumer>,
    board: StatusBoard,
    topics: Vec<String>,
    interval: Duration,
    answer: Sender<Answer>,
    suspect: Sender<TopicPartition>,
    /// Where each log ended when last asked.
    seen: HashMap<TopicPartition, Offset>,
    heartbeat: Heartbeat,
}

impl Asker {
    fn run(mut self, asked: &Receiver<Question>) {
        let mut due = Instant::now();
        let mut round: Vec<TopicPartition> = Vec::new();
        loop {
            self.heartbeat.beat();
            // Questions go first; one partition of the round between any two looks.
            let wait = match round.is_empty() {
                true => due.saturating_duration_since(Instant::now()).min(BEAT),
                false => Duration::ZERO,
            };
            match asked.recv_timeout(wait) {
                Ok(question) => self.reply(question),
                Err(RecvTimeoutError::Disconnected) => {
                    self.heartbeat.finish();
                    return;
                }
                Err(RecvTimeoutError::Timeout) => match round.pop() {
                    Some(source) => self.sample(&source),
                    None if Instant::now() < due => {}
                    None => {
                        due = Instant::now() + self.interval;
                        round =
                            self.board.partitions().into_iter().map(|view| view.source).collect();
                        if round.is_empty() {
                            self.greet();
                        }
                    }
                },
            }
        }
    }

    fn reply(&self, question: Question) {
        let Question { source, generation, committed } = question;
        let ends = self.ends(&source, committed).ok();
        if let Some(ends) = ends {
            self.board.end(&source, ends.high);
        }
        drop(self.answer.send(Answer { source, generation, ends }));
    }

    fn sample(&mut self, source: &TopicPartition) {
        let ends = self.ends(source, false);
        if let Ok(ends) = &ends {
            self.board.end(source, ends.high);
        }
        if self.is_suspect(source, &ends) {
            drop(self.suspect.send(source.clone()));
        }
    }

    /// A topic deleted and created again goes unnoticed by librdkafka once the new log is longer
    /// than our position: it reads on there. But a log's end never moves back, and a topic does
    /// not go missing, without something like that behind it.
    fn is_suspect(&mut self, source: &TopicPartition, ends: &KafkaResult<LogEnds>) -> bool {
        match ends {
            Ok(ends) => {
                let before = self.seen.insert(source.clone(), ends.high);
                before.is_some_and(|before| ends.high < before)
            }
            Err(error) => matches!(
                error.rdkafka_error_code(),
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::UnknownTopic
                        | RDKafkaErrorCode::UnknownPartition
                )
            ),
        }
    }

    /// With nothing assigned there is no log to ask about; that a broker answers is still news.
    fn greet(&self) {
        let topic = self.topics.first().map(String::as_str);
        self.heard(&self.consumer.fetch_metadata(topic, PATIENCE));
    }

    fn ends(&self, source: &TopicPartition, committed: bool) -> KafkaResult<LogEnds> {
        let answer = self.consumer.fetch_watermarks(&source.topic, source.partition, PATIENCE);
        self.heard(&answer);
        let (low, high) = answer?;
        let committed = if committed { self.committed(source)? } else { None };
        Ok(LogEnds { low: Offset(low), high: Offset(high), committed })
    }

    fn committed(&self, source: &TopicPartition) -> KafkaResult<Option<Offset>> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&source.topic, source.partition);
        let list = self.consumer.committed_offsets(list, PATIENCE)?;
        let offset = list.elements().first().and_then(|element| match element.offset() {
            rdkafka::Offset::Offset(offset) => Some(Offset(offset)),
            _ => None,
        });
        Ok(offset)
    }

    fn heard<T>(&self, answer: &KafkaResult<T>) {
        self.board.kafka(match answer {
            Ok(_) => Health::Up,
            Err(error) => Health::down(error.to_string()),
        });
    }
}
